"""The stages of a recipe, in order, each run again only when what it is made from has changed."""
