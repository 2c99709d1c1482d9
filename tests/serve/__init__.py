"""Tests of `localhyper serve`."""
