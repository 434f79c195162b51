"""Code shared by the recipes."""
