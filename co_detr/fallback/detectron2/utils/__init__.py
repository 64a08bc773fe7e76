"""Processes, logging, events, files and other services that know nothing of detection."""
