from markupsafe import Markup

from glmquant.reports.svg import Scale, drawing, element, scale, text, title

EVIL = "</text><script>alert(1)</script>&\"'"


def test_text_and_attributes_are_escaped_and_markup_is_not() -> None:
    parts = (text(EVIL, 1, 2.5, class_=EVIL), title(EVIL), element("g", EVIL))
    page = drawing(10, 20, EVIL, *parts)
    assert "<script" not in page
    assert "\"'" not in page
    assert page.count("<text ") == page.count("<title>") == page.count("<g>") == 1
    assert isinstance(page, Markup)


def test_names_of_attributes_are_svgs() -> None:
    drawn = element("text", text_anchor="end", class_="tick", x=1.23456789, y=3)
    assert drawn == '<text text-anchor="end" class="tick" x="1.23457" y="3"></text>'


def test_ticks_are_round() -> None:
    assert Scale(0, 1, 0, 100).ticks(5) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert Scale(0.0013, 0.0029, 0, 100).ticks(4) == [0.0015, 0.002, 0.0025]
    assert Scale(-5, 95, 0, 1).ticks(5) == [0, 20, 40, 60, 80]


def test_a_scale_holds_its_values_even_if_they_are_equal() -> None:
    flat, upward = scale([3.0, 3.0], 0, 10), scale([0.0, 2.0], 100, 0, from_zero=True)
    assert 0 < flat(3.0) < 10
    assert (upward(0.0), 0 < upward(2.0) < 100) == (100, True)
