"""Definitions of your own, as ``dg scaffold defs`` makes them here: everything in this folder is loaded beside the product's."""
