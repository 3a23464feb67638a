"""Tables and figures of `tskd reproduce`."""
