"""What predicts: the U-Net, the autoencoder and the text encoder of Stable Diffusion v1, at any width, the vision transformers of CLIP
and DINO, and the tokenizers."""
