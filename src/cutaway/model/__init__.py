"""The machine itself. Only torch: read this folder, and nothing else, to understand Transformers."""
