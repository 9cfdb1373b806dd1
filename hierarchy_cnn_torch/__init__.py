"""Do Convolutional Neural Networks Learn Class Hierarchy? (Alsallakh et al., TVCG 2018), from the paper alone.

Trees and cuts, similarity, exact seriation, block-diagonality, selectivity, the hierarchy-aware network with its
controls, and the viewer. Importing this package imports no framework.
"""
