"""The networks: LeNet, VGG16 for small images and for ImageNet, and `early`, a narrow VGG that pools early."""
