"""What each instance can run: ``/object_info``, asked rarely, kept once, told as typed values."""
