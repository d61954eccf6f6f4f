"""Weights to and from PyTorch: the release, torchvision and timm."""
