include tests/testbed/testbed.mk
