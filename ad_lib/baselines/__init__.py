"""What stylefarm is compared with: the published loops, one image at a time."""
