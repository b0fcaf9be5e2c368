"""Where pictures come from: procedural shapes with true edits, the Gaussian oracle, picture files."""
