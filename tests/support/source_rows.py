"""Writing source files, and the rows that the fixture ``read`` reads from them."""

HEADER = "text,label,domain\n"


def write_file(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_csv_file(path, *rows, header="text,label"):
    return write_file(path, "\n".join([header, *rows]) + "\n")


def text_label_domain(raw):
    return [(row.text, row.label, row.domain) for row in raw.examples]


def text_domain_split(raw):
    return sorted((row.text, row.domain, row.split) for row in raw.examples)


def reason_and_line(raw):
    return sorted([(row.reason, row.line) for row in raw.dropped], key=lambda row: row[1])
