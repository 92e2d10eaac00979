"""What a facility installs beside the daemon; the Python here only writes files of this folder."""
