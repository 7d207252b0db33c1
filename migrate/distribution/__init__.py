"""A registry's two faces: the tree that it stores and the protocol that it uses."""
