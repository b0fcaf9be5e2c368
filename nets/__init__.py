"""What predicts: the U-Net, the autoencoder and the text encoder of Stable Diffusion v1, the U-Net and
the text transformer of GLIDE, at any width, the vision transformers of CLIP, plain and noised, and DINO,
and the tokenizers."""
