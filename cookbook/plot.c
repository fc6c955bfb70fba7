/* plot.c: columns of a CSV file as SVG, for the reports of the cookbook. Built as build/plot.
 *
 *     build/plot losses.csv losses.svg --title "loss" --x updates --y "nats a token" --right rate
 *
 * What to know first: the first line names the columns; the first column is x, every other one a
 * line over it. An empty cell is no point: a line joins the points that it has, so that a curve
 * that is measured now and then is whole. A row of empty cells only widens the plot. svg.h draws.
 * With --bars, the last number of every column is a bar, with its name before and itself behind.
 * Test: tests/test_cookbook.py. */

#include "../svg.h" /* SvgLine, svg_plot; files.h: options, files */

enum { COLUMNS = 32 };

typedef struct {
    double *x, *y;
    size_t n;
} Points;

typedef struct {
    char *name[COLUMNS];
    Points points[COLUMNS]; /* the first one is not used */
    int n;
} Table;

static const char *title = "", *x_label = "", *y_label = "", *right_label = "";
static TextList right;
static bool log_y, bars;

static const Option options[] = {
    { 0, "title", NULL, "TEXT", OPT_TEXT, &title, 0, 0, "above the plot" },
    { 0, "x", NULL, "TEXT", OPT_TEXT, &x_label, 0, 0, "what the first column is" },
    { 0, "y", NULL, "TEXT", OPT_TEXT, &y_label, 0, 0, "what the others are" },
    { 0, "right", NULL, "COLUMN", OPT_LIST, &right, 0, 0, "belongs to the right axis; repeatable" },
    { 0, "right-label", NULL, "TEXT", OPT_TEXT, &right_label, 0, 0, "what the right axis is" },
    { 0, "log", NULL, NULL, OPT_FLAG, &log_y, 0, 0, "a logarithmic left axis" },
    { 0, "bars", NULL, NULL, OPT_FLAG, &bars, 0, 0, "a bar for each column, from 0" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

static const char usage[] = "usage: plot IN.csv OUT.svg [options]\n"
                            "The first line of IN names the columns, the first of which is x.\n";

/* Cuts off the cell that begins at *at by a 0 byte; NULL after the last one of the line. */
static char *next_cell(char **at) {
    char *cell = *at, *end;
    if (!cell) return NULL;
    end = cell + strcspn(cell, ",");
    *at = *end ? end + 1 : NULL;
    *end = 0;
    return cell;
}

/* A number; NAN for an empty cell. */
static double cell_number(const char *path, size_t line, const char *cell) {
    char *end;
    double v = strtod(cell, &end);
    if (!*cell) return NAN;
    if (*end || !isfinite(v))
        die("%s:%zu: '%s', expected a finite number or nothing", path, line, cell);
    return v;
}

static void add_point(Points *p, double x, double y) {
    p->x = xrealloc(p->x, p->n + 1, sizeof *p->x, "points");
    p->y = xrealloc(p->y, p->n + 1, sizeof *p->y, "points");
    p->x[p->n] = x, p->y[p->n++] = y;
}

static void read_row(Table *t, const char *path, size_t line, char *text) {
    char *at = text, *cell = next_cell(&at);
    double x = cell_number(path, line, cell), y;
    int c = 1;
    bool any = false;
    if (isnan(x)) die("%s:%zu: no x, expected a number in the first column", path, line);
    for (; (cell = next_cell(&at)); c++) {
        if (c >= t->n) break;
        y = cell_number(path, line, cell);
        if (isnan(y)) continue;
        any = true;
        add_point(&t->points[c], x, y);
    }
    if (cell || c != t->n)
        die("%s:%zu: %s than %d cells, expected as many as names", path, line,
            cell ? "more" : "less", t->n);
    if (!any) add_point(&t->points[1], x, NAN);
}

/* `text` holds the file, and the names of the columns stay in it. */
static void read_table(Table *t, const char *path, Buf *text) {
    read_file(path, text);
    buf_add(text, "", 1);
    if (strlen(text->data) + 1 != text->n) die("%s: has a 0 byte, expected CSV", path);
    char *line = text->data, *end;
    for (size_t number = 1; *line; line = end, number++) {
        end = line + strcspn(line, "\n");
        if (*end) *end++ = 0;
        line[strcspn(line, "\r")] = 0;
        if (number > 1) {
            if (*line) read_row(t, path, number, line);
            continue;
        }
        for (char *at = line, *cell; (cell = next_cell(&at));) {
            if (t->n == COLUMNS) die("%s: more than %d columns, expected fewer", path, COLUMNS);
            t->name[t->n++] = cell;
        }
    }
    if (t->n < 2) die("%s: %d columns, expected x and at least one more", path, t->n);
}

/* Names, bars and numbers from above to below. */
static void draw_bars(Buf *out, const Table *t) {
    enum { HIGH = 22, LEFT = 280, WIDE = 520 };
    double most = 0;
    char number[32];
    for (int c = 1; c < t->n; c++)
        for (size_t i = 0; i < t->points[c].n; i++) most = fmax(most, t->points[c].y[i]);
    buf_printf(out,
               "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\">\n"
               "<style>text { font: 12px sans-serif }</style>\n"
               "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
               SVG_W, SVG_TOP + HIGH * (t->n - 1) + 40);
    svg_text(out, SVG_W / 2.0, 22, "text-anchor=\"middle\"", title);
    for (int c = 1; c < t->n; c++) {
        const Points *p = &t->points[c];
        double y = SVG_TOP + HIGH * (c - 1), v = p->n ? p->y[p->n - 1] : NAN;
        double wide = v > 0 ? WIDE * v / most : 0;
        svg_text(out, LEFT - 8, y + 13, "text-anchor=\"end\"", t->name[c]);
        if (isnan(v)) continue;
        buf_printf(out,
                   "<rect x=\"%d\" y=\"%.1f\" width=\"%.1f\" height=\"%d\" fill=\"#1f77b4\"/>\n",
                   LEFT, y, wide, HIGH - 5);
        snprintf(number, sizeof number, "%.4g", v);
        svg_text(out, LEFT + wide + 6, y + 13, "", number);
    }
    svg_text(out, LEFT + WIDE / 2.0, SVG_TOP + HIGH * (t->n - 1) + 20, "text-anchor=\"middle\"",
             y_label);
    buf_printf(out, "</svg>\n");
}

static void draw_lines(Buf *out, const Table *t) {
    static const char *const color[] = { "#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd",
                                         "#8c564b", "#e377c2", "#17becf", "#bcbd22", "#393b79" };
    SvgLine line[COLUMNS];
    SvgPlot plot = { title, x_label, y_label, right_label, log_y, line, t->n - 1 };
    for (int c = 1; c < t->n; c++) {
        const Points *p = &t->points[c];
        bool is_right = false;
        for (int i = 0; i < right.n; i++) is_right |= !strcmp(right.text[i], t->name[c]);
        line[c - 1] = (SvgLine){ t->name[c],
                                 is_right ? "gray" : color[(c - 1) % 10],
                                 is_right ? 0.7 : 1.5,
                                 1,
                                 is_right,
                                 p->x,
                                 p->y,
                                 p->n };
    }
    svg_plot(out, &plot);
}

static void draw(const Table *t, const char *path) {
    Buf picture = { NULL, 0, 0 };
    OutFile out;
    if (bars)
        draw_bars(&picture, t);
    else
        draw_lines(&picture, t);
    out_open(&out, path);
    out_write(&out, picture.data, picture.n);
    out_commit(&out);
    buf_free(&picture);
}

int main(int argc, char **argv) {
    const char *path[2];
    Table table = { .n = 0 };
    Buf text = { NULL, 0, 0 };
    if (argc == 1) return fputs(usage, stderr), 2;
    if (parse_options(argc, argv, options, usage, path, 2) != 2)
        die_usage("expected two names: IN.csv and OUT.svg");
    for (int i = 0; i < right.n; i++)
        if (!*right.text[i]) die_usage("--right: is empty, expected the name of a column");
    read_table(&table, path[0], &text);
    draw(&table, path[1]);
    for (int c = 0; c < table.n; c++) free(table.points[c].x), free(table.points[c].y);
    buf_free(&text);
    return 0;
}
