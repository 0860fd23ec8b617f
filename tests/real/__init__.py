"""Tests with classes and files of public packages."""
