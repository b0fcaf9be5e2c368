"""The commands of `palimpsest`, a file for each: one function declares its options, one runs it."""

COMMANDS = {  # name -> what it does; `palimpsest --help` prints this without importing the commands
    "sdedit": "edit a picture: noise it up to t0, then denoise it under a text (arXiv:2108.01073)",
    "diffedit": "edit a picture where two texts disagree about it: find the mask, encode, decode under it "
    "(arXiv:2210.11427)",
    "flow-edit": "turn what one text says of a picture into what another says, without inversion "
    "(arXiv:2412.08629)",
    "rf-inversion": "take a picture to noise and back under a text, pulled towards both (arXiv:2410.10792)",
    "text2live": "paint one layer of colour and opacity over a picture, trained on it alone by what a "
    "CLIP says (arXiv:2204.02491)",
    "prompt-to-prompt": "change the words and keep the layout, by attention control (arXiv:2208.01626)",
    "null-text": "tune null embeddings until a picture comes back under strong guidance, then edit it "
    "(arXiv:2211.09794)",
    "invert": "how exactly a picture comes back from its own noise, by each method of inversion, and "
    "what each costs",
    "attention": "show where each word of a prompt looks, by its attention maps over layers, heads and "
    "steps (arXiv:2208.01626)",
    "dreambooth": "learn one subject from a few pictures, as a rare word of the model's (arXiv:2208.12242)",
    "train": "train a text-to-picture model on a folder of your own captioned pictures",
    "generate": "make pictures from a text alone",
    "glide": "paint from a text in two stages, and paint parts of a picture anew (arXiv:2112.10741)",
    "instruct-pix2pix": "edit a picture by an instruction (arXiv:2211.09800)",
    "studio": "open a page on this machine in which every method is tried by hand",
    "words": "list the words that a model reads, and what else is understood as them",
    "sweep": "a command for every setting of one or two of its options, on one labelled sheet",
    "again": "make a result once more, to the bit, from the record that it carries",
    "models": "list the shipped models, with what was measured on each",
    "weights": "public checkpoints: list those that are known, fetch one, look at a file",
}
