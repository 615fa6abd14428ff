"""The fault table: what every client, called in every way, makes of every fault, and the page that says so."""
