"""File systems read from their blocks: ext2, ext3, ext4, XFS and btrfs. Nothing is mounted."""
