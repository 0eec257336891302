"""Tests of what decides nothing."""
