"""Golden bytes of everything that is on a disk or a wire: what each version of each format looks like.

    python -m tests.golden                       checks them, as `tests/test_golden.py` does
    python -m tests.golden --write               writes the files of versions that have none yet
    python -m tests.golden --write --same-version FORMAT
                                                 replaces the file of a version that was never released
    python -m tests.golden --release             seals the present versions: they are never written again

`files/FORMAT-vVERSION.txt` has cases: what the bytes mean, and the bytes, a field a line. Production code
must encode the same inputs to the same bytes and decode these bytes to the same inputs. Whoever changes
a byte raises the version; the file of the old one stays, and must still be readable, or refused by name.
"""
