"""The commands of `palimpsest`, a file for each method: one function declares its options, one runs it."""
