"""Disk images and block devices: the image's format, its partitions and volumes, and the file systems in them."""
