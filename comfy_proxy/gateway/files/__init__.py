"""Files: uploads, ``/view``, and what is put where a prompt needs it."""
