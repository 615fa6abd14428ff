"""Turns the steps of a call into spans, metrics and log records, and gets them to where people read them."""
