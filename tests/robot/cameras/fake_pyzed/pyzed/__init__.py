"""Stands in for the package of Stereolabs' SDK."""
