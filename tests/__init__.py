"""Tests of tidb_magic: units beside what runs on a real cluster."""
