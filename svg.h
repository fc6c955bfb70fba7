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

enum { SVG_W = 900, SVG_H = 500, SVG_LEFT = 70, SVG_RIGHT = 80, SVG_TOP = 40, SVG_BOTTOM = 50 };
enum { SVG_POINTS = 2000 }; /* no screen shows more of a line */

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

/* Text with the five characters escaped that mean something in XML; control bytes are not XML. */
OC_API void svg_text(Buf *out, double x, double y, const char *attributes, const char *text) {
    static const char special[] = "&<>\"'";
    static const char *const name[] = { "&amp;", "&lt;", "&gt;", "&quot;", "&apos;" };
    buf_printf(out, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, attributes);
    for (const char *c = text; *c; c++) {
        const char *hit = strchr(special, *c);
        if (hit)
            buf_printf(out, "%s", name[hit - special]);
        else
            buf_add(out, (unsigned char)*c < 32 ? "?" : c, 1);
    }
    buf_printf(out, "</text>\n");
}

/* Widens the axis to hold every value of the lines on this side (side 2: all x values). */
OC_API void svg_range(SvgAxis *a, const SvgPlot *p, int side) {
    a->low = INFINITY, a->high = -INFINITY;
    for (int l = 0; l < p->n_lines; l++) {
        const SvgLine *line = &p->line[l];
        const double *v = side == 2 ? line->x : line->y;
        if (side != 2 && line->right != (side == 1)) continue;
        for (size_t i = 0; i < line->n; i++)
            if (svg_shows(a, v[i])) a->low = fmin(a->low, v[i]), a->high = fmax(a->high, v[i]);
    }
    if (a->low > a->high) a->low = 1, a->high = 2; /* nothing to show */
    if (a->low == a->high) {
        double half = a->low != 0 ? fabs(a->low) / 2 : 1;
        a->low -= half, a->high += half;
    }
}

/* Steps of 1, 2 or 5 times a power of ten, about five of them; on a logarithmic axis that spans
 * more than one power, the powers themselves with 2 and 5. The range grows to whole steps. */
OC_API int svg_ticks(SvgAxis *a, double tick[32]) {
    int n = 0;
    if (a->log && a->high / a->low > 10) {
        static const double nice[] = { 1, 2, 5 };
        int first = (int)floor(log10(a->low)), last = (int)ceil(log10(a->high));
        int each = last - first > 6 ? 3 : 1, skip = last - first > 24 ? (last - first) / 12 : 1;
        for (int e = first; e <= last; e += skip)
            for (int k = 0; k < 3 && n < 32; k += each) {
                double v = nice[k] * pow(10, e);
                if (v >= a->low && v <= a->high) tick[n++] = v;
            }
        return n;
    }
    double span = a->high - a->low, step = pow(10, floor(log10(span / 5)));
    step *= span / step > 25 ? 5 : span / step > 10 ? 2 : 1;
    double low = floor(a->low / step) * step, high = ceil(a->high / step) * step;
    if (!a->log) a->low = low, a->high = high;
    for (double v = low; v <= high + step / 2 && n < 32; v += step)
        if (v >= a->low - step / 1e6 && v <= a->high + step / 1e6)
            tick[n++] = fabs(v) < step / 1e6 ? 0 : v;
    return n;
}

/* Tick marks with their numbers, and grid lines except for the right axis. */
OC_API void svg_axis(Buf *out, SvgAxis *a, int side, const char *label) {
    static const char *const anchor[] = { "end", "start", "middle" };
    double tick[32], right = SVG_W - SVG_RIGHT, bottom = SVG_H - SVG_BOTTOM;
    char text[64], attributes[96];
    int n = svg_ticks(a, tick);
    for (int i = 0; i < n; i++) {
        double at = svg_at(a, tick[i]);
        snprintf(text, sizeof text, "%.6g", tick[i]);
        snprintf(attributes, sizeof attributes, "text-anchor=\"%s\"", anchor[side]);
        if (side == 2) {
            buf_printf(out, "<path d=\"M%.1f %d V%.1f\" class=\"grid\"/>\n", at, SVG_TOP, bottom);
            svg_text(out, at, bottom + 18, attributes, text);
        } else {
            if (side == 0)
                buf_printf(out, "<path d=\"M%d %.1f H%.1f\" class=\"grid\"/>\n", SVG_LEFT, at,
                           right);
            svg_text(out, side ? right + 6 : SVG_LEFT - 6, at + 4, attributes, text);
        }
    }
    double x = side == 2 ? (SVG_LEFT + right) / 2 : side ? SVG_W - 12 : 16;
    double y = side == 2 ? SVG_H - 12 : (SVG_TOP + bottom) / 2;
    snprintf(attributes, sizeof attributes, "text-anchor=\"middle\" transform=\"rotate(%d %g %g)\"",
             side == 2 ? 0 : -90, x, y);
    svg_text(out, x, y, attributes, label);
}

OC_API void svg_line(Buf *out, const SvgLine *l, const SvgAxis *x, const SvgAxis *y) {
    size_t every = l->n / SVG_POINTS + 1;
    bool pen = false;
    buf_printf(out, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"%g\" opacity=\"%g\" d=\"",
               l->color, l->width, l->opacity);
    for (size_t i = 0; i < l->n; i += every) {
        bool shown = svg_shows(x, l->x[i]) && svg_shows(y, l->y[i]);
        if (shown)
            buf_printf(out, "%c%.1f %.1f ", pen ? 'L' : 'M', svg_at(x, l->x[i]),
                       svg_at(y, l->y[i]));
        pen = shown;
    }
    buf_printf(out, "\"/>\n");
}

OC_API void svg_plot(Buf *out, const SvgPlot *p) {
    double right = SVG_W - SVG_RIGHT, bottom = SVG_H - SVG_BOTTOM;
    SvgAxis axis[3] = { { 0, 0, bottom, SVG_TOP, p->log_y }, /* left, right, x */
                        { 0, 0, bottom, SVG_TOP, false },
                        { 0, 0, SVG_LEFT, right, false } };
    bool has_right = false;
    for (int i = 0; i < p->n_lines; i++) has_right |= p->line[i].right;
    for (int side = 0; side < 3; side++) svg_range(&axis[side], p, side);
    buf_printf(out,
               "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
               "viewBox=\"0 0 %d %d\">\n<style>text { font: 12px sans-serif } "
               ".grid { stroke: #ddd }</style>\n"
               "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
               SVG_W, SVG_H, SVG_W, SVG_H);
    svg_text(out, SVG_W / 2.0, 22, "text-anchor=\"middle\" font-weight=\"bold\"", p->title);
    svg_axis(out, &axis[0], 0, p->y_label);
    if (has_right) svg_axis(out, &axis[1], 1, p->right_label);
    svg_axis(out, &axis[2], 2, p->x_label);
    for (int i = 0; i < p->n_lines; i++) {
        const SvgLine *l = &p->line[i];
        svg_line(out, l, &axis[2], &axis[l->right]);
        buf_printf(out, "<path d=\"M%.0f %d h20\" stroke=\"%s\" stroke-width=\"%g\"/>\n",
                   right - 170, SVG_TOP + 14 + 18 * i, l->color, l->width);
        svg_text(out, right - 144, SVG_TOP + 18 + 18 * i, "", l->name);
    }
    buf_printf(out, "<path d=\"M%d %d V%.0f H%.0f V%d\" fill=\"none\" stroke=\"black\"/>\n</svg>\n",
               SVG_LEFT, SVG_TOP, bottom, right, SVG_TOP);
}

#endif
