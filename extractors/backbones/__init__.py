"""The networks that turn crops into feature maps, one file each, with the tensor names of their
widely distributed checkpoints."""
