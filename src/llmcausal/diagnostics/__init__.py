"""What `doctor` checks. A new check is one function in a file here plus one line in doctor.py."""
