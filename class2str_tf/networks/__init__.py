"""The stage-1 networks: LeNet and VGG16."""
