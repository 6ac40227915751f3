"""Where records go: the queue in front of each place, and the places: files, stores, syslog, HTTP, a function."""
