"""Container images: built with upstream's builder or pulled, and served to nodes from a local registry.

``build``      have images in the local registry
``registry``   the local registry
``cli``        ``kolla-salt images``
"""
