"""Export a model as a folder that loads without torch."""
