"""A daemon as desks run it: one loop that looks every five seconds, and a line in a log."""

import logging
import time

from benchmarks.peer_programs.work import POLL_EVERY_SEC, Work

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    work, due = Work(), time.monotonic()
    while True:
        logging.info("published %s", work.cycle())
        due += POLL_EVERY_SEC
        time.sleep(max(0.0, due - time.monotonic()))
