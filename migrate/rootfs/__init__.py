"""The check that no other tool has: does the converted image unpack to the file system that is in the store?"""
