"""Fetches the raw files of the datasets and the published weights.

entry      what is known of a file
catalogue  which files there are: addresses, sizes, checksums, licences, next commands
checks     compares a file with its published size and checksum
http       one request for the rest of a file, with redirects that stay safe
part_file  the unfinished file, and what its bytes belong to
transfer   a whole file: resumed, repeated, checked, and named only when it is complete
"""
