"""Program text that sends SIGINT to its own process."""

CTRL_C_TWICE = """
    import linecache
    main = threading.main_thread().ident
    def line():
        frame = sys._current_frames().get(main)   # between two exit handlers there is none
        return linecache.getline(frame.f_code.co_filename, frame.f_lineno) if frame else ""
    def twice():
        signal.pthread_kill(main, signal.SIGINT)
        while "self._done.acquire(" not in line():   # it waits for the worker, in the exit handler
            time.sleep(0.01)   # between two looks
        signal.pthread_kill(main, signal.SIGINT)
    threading.Thread(target=twice, daemon=True).start()
    """
"""Part of a program that imports `signal`, `sys`, `threading` and `time`. The second signal arrives during its exit."""
