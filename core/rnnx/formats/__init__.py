"""Foreign weight formats, one small module each."""
