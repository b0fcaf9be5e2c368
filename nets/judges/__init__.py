"""Networks that look at pictures and texts to judge them: CLIP, DINO, the readers, and a small language
model.
"""
