"""Reads a report as a browser would, and fails where it is not well formed or would load anything."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br"}
ALLOWED = (
    "html head title style body header h1 h2 h3 ul ol li nav a main section div table caption thead tbody tr th td p "
    "figure figcaption article blockquote mark bdi strong span code details summary footer"
)


class Page(HTMLParser):
    """The text, the ids, where links go, and the cells of each table by row; fails on what a report may not hold."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text, self.ids, self.links, self.images = "", set[str](), list[str](), list[str]()
        self.tables: list[list[list[str]]] = []
        self.feed(html)
        self.close()
        assert self.open == []
        assert {link.removeprefix("#") for link in self.links} <= self.ids

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID or tag in ALLOWED.split(), tag
        values = dict(attrs)
        assert len(values) == len(attrs), attrs
        assert not any(name.startswith("on") for name in values), attrs
        assert tag == "a" or "href" not in values
        assert tag == "img" or "src" not in values
        assert "url(" not in (values.get("style") or "")
        if tag == "img":
            assert (values["src"] or "").startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
            assert values["alt"]
            self.images.append(values["alt"] or "")
        if tag == "a":
            assert (values["href"] or "").startswith("#"), attrs
            self.links.append(values["href"] or "")
        if "id" in values:
            assert values["id"] not in self.ids
            self.ids.add(values["id"] or "")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            assert "url(" not in data
            assert "@import" not in data
            return
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data
