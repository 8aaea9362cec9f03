"""Files on local disks and object stores: paths, atomic writes, texts as they are stored. Private."""
