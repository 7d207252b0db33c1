"""One tar: its headers, its index, its entries; tar-split and tarsum."""
