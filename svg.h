/* svg.h: one small plot writer: lines over a common x axis, as SVG that a person can read too.
 *
 * What to know first: a plot is a list of lines, each with its own x and y values. A line belongs
 * to the left axis, linear or logarithmic, or to the thin axis on the right. Points that are not
 * finite (or not above 0 on a logarithmic axis) leave a gap. Nothing here reads or writes files:
 * svg_plot appends text to a Buf. Test: tests/test_trainloop.py. */
#ifndef OC_SVG_H
#define OC_SVG_H

#include "files.h" /* Buf */

typedef struct {
    const char *name, *color; /* any text; a color of SVG: "#1f77b4", "gray" */
    double width, opacity;
    bool right; /* belongs to the right axis */
    const double *x, *y;
    size_t n;
} SvgLine;

typedef struct {
    const char *title, *x_label, *y_label, *right_label;
    bool log_y; /* the left axis */
    const SvgLine *line;
    int n_lines;
} SvgPlot;

enum { SVG_W = 900, SVG_H = 500, SVG_LEFT = 70, SVG_RIGHT = 820, SVG_TOP = 40, SVG_BOTTOM = 450 };

/* One axis: values low .. high lie at pixels from .. to. */
typedef struct {
    double low, high, from, to;
    bool log;
} SvgAxis;

OC_API double svg_at(const SvgAxis *a, double v) {
    double t = a->log ? log(v / a->low) / log(a->high / a->low) : (v - a->low) / (a->high - a->low);
    return a->from + t * (a->to - a->from);
}

OC_API bool svg_shows(const SvgAxis *a, double v) { return isfinite(v) && (!a->log || v > 0); }

/* Text, with what means something in XML as numbers; control bytes are not XML. */
OC_API void svg_text(Buf *out, double x, double y, const char *attributes, const char *text) {
    buf_printf(out, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, attributes);
    for (; *text; text++)
        buf_printf(out, strchr("&<>", *text) ? "&#%d;" : "%c",
                   (unsigned char)*text < 32 ? '?' : *text);
    buf_printf(out, "</text>\n");
}

/* Makes the axis hold every value of its lines (side 2: all x values), the right one 0 too. False,
 * and any range, when there is no value. */
OC_API bool svg_range(SvgAxis *a, const SvgPlot *p, int side) {
    double low = INFINITY, high = -INFINITY;
    for (int l = 0; l < p->n_lines; l++) {
        const SvgLine *line = &p->line[l];
        const double *v = side == 2 ? line->x : line->y;
        for (size_t i = 0; (side == 2 || line->right == side) && i < line->n; i++)
            if (svg_shows(a, v[i])) low = fmin(low, v[i]), high = fmax(high, v[i]);
    }
    bool any = low <= high;
    if (side == 1) low = fmin(low, 0);
    if (!any) low = 1, high = 2;
    if (low == high) low -= low != 0 ? fabs(low) / 2 : 1, high += high != 0 ? fabs(high) / 2 : 1;
    a->low = low, a->high = high;
    return any;
}

/* Where the ticks are: at steps of 1, 2 or 5 times a power of ten, five to twelve of them, and the
 * range grows to whole steps; a logarithmic axis has 1, 2 and 5 times the powers themselves. */
OC_API int svg_ticks(SvgAxis *a, double tick[32]) {
    static const double nice[] = { 1, 2, 5 };
    double span = a->high - a->low, step = pow(10, floor(log10(span / 5)));
    int n = 0, power = (int)floor(log10(a->log ? a->low : 1));
    for (int i = 0; a->log && i < 60 && n < 32; i++) {
        int decade = power + i / 3;
        double v = nice[i % 3] * pow(10, decade);
        if (v >= a->low && v <= a->high) tick[n++] = v;
    }
    if (a->log) return n;
    step *= nice[span / step > 25 ? 2 : span / step > 10];
    a->low = floor(a->low / step) * step, a->high = ceil(a->high / step) * step;
    for (double v = a->low; v <= a->high + step / 2 && n < 32; v += step)
        tick[n++] = fabs(v) < step / 1e6 ? 0 : v;
    return n;
}

/* Ticks, their numbers and grid lines of the left (0), right (1) or lower (2) axis. */
OC_API void svg_axis(Buf *out, SvgAxis *a, int side, const char *label) {
    static const char *const anchor[] = { "end", "start", "middle" };
    static const int label_x[] = { 16, SVG_W - 12, (SVG_LEFT + SVG_RIGHT) / 2 };
    double tick[32], x = label_x[side], y = side == 2 ? SVG_H - 12 : (SVG_TOP + SVG_BOTTOM) / 2;
    char text[64], attributes[96];
    for (int n = svg_ticks(a, tick), i = 0; i < n; i++) {
        double at = svg_at(a, tick[i]);
        snprintf(text, sizeof text, "%.6g", tick[i]);
        snprintf(attributes, sizeof attributes, "text-anchor=\"%s\"", anchor[side]);
        if (side == 2) {
            buf_printf(out, "<path class=\"grid\" d=\"M%.1f %d V%d\"/>\n", at, SVG_TOP, SVG_BOTTOM);
            svg_text(out, at, SVG_BOTTOM + 18, attributes, text);
            continue;
        }
        svg_text(out, side ? SVG_RIGHT + 6 : SVG_LEFT - 6, at + 4, attributes, text);
        if (side == 0)
            buf_printf(out, "<path class=\"grid\" d=\"M%d %.1f H%d\"/>\n", SVG_LEFT, at, SVG_RIGHT);
    }
    snprintf(attributes, sizeof attributes, "text-anchor=\"middle\" transform=\"rotate(%d %g %g)\"",
             side == 2 ? 0 : -90, x, y);
    svg_text(out, x, y, attributes, label);
}

/* A point alone, of which a line shows nothing, is a dot. */
OC_API void svg_line(Buf *out, const SvgLine *l, const SvgAxis *x, const SvgAxis *y) {
    size_t every = l->n / 2000 + 1; /* no screen shows more points */
    const char *pen = "M", *dot = l->n == 1 ? "h0 " : "";
    buf_printf(out,
               "<path fill=\"none\" stroke=\"%s\" stroke-width=\"%g\" opacity=\"%g\" "
               "stroke-linecap=\"round\" d=\"",
               l->color, *dot ? 6 : l->width, l->opacity);
    for (size_t i = 0; i < l->n; i += every) {
        if (svg_shows(x, l->x[i]) && svg_shows(y, l->y[i]))
            buf_printf(out, "%s%.1f %.1f %s", pen, svg_at(x, l->x[i]), svg_at(y, l->y[i]), dot),
                pen = "L";
        else
            pen = "M";
    }
    buf_printf(out, "\"/>\n");
}

OC_API void svg_plot(Buf *out, const SvgPlot *p) {
    const char *label[] = { p->y_label, p->right_label, p->x_label };
    SvgAxis axis[3] = { { 0, 0, SVG_BOTTOM, SVG_TOP, p->log_y }, /* left, right, x */
                        { 0, 0, SVG_BOTTOM, SVG_TOP, false },
                        { 0, 0, SVG_LEFT, SVG_RIGHT, false } };
    buf_printf(out,
               "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\">\n"
               "<style>.grid { stroke: #ddd } text { font: 12px sans-serif; paint-order: stroke; "
               "stroke: white; stroke-width: 3px }</style>\n"
               "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
               SVG_W, SVG_H);
    svg_text(out, SVG_W / 2.0, 22, "text-anchor=\"middle\"", p->title);
    for (int side = 0; side < 3; side++)
        if (svg_range(&axis[side], p, side) || side != 1)
            svg_axis(out, &axis[side], side, label[side]);
    for (int i = 0; i < p->n_lines; i++) {
        const SvgLine *l = &p->line[i];
        svg_line(out, l, &axis[2], &axis[l->right]);
        buf_printf(out, "<path d=\"M%d %d h20\" stroke=\"%s\" stroke-width=\"%g\"/>\n",
                   SVG_RIGHT - 170, SVG_TOP + 14 + 18 * i, l->color, l->width);
        svg_text(out, SVG_RIGHT - 144, SVG_TOP + 18 + 18 * i, "", l->name);
    }
    buf_printf(out, "<path d=\"M%d %d V%d H%d V%d\" fill=\"none\" stroke=\"black\"/>\n</svg>\n",
               SVG_LEFT, SVG_TOP, SVG_BOTTOM, SVG_RIGHT, SVG_TOP);
}

#endif
