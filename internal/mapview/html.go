package mapview

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/reach"
)

//go:embed assets
var assets embed.FS

// scripts are the page's, in the order in which they need each other.
var scripts = []string{"core.js", "layout.js", "graph.js", "matrix.js", "table.js", "detail.js", "main.js"}

// asset returns a file that is part of the program: that it is there is known when the program is built and tested.
func asset(name string) string {
	data, err := assets.ReadFile("assets/" + name)
	if err != nil {
		return ""
	}
	return string(data)
}

// script is all scripts as one, with names of its own.
func script() string {
	var b strings.Builder
	b.WriteString("(function () {\n'use strict';\n")
	for _, name := range scripts {
		b.WriteString(asset(name))
	}
	b.WriteString("})();\n")
	return b.String()
}

// page is the data of the HTML page: the document with the pairs packed.
type page struct {
	document
	Groups []pageGroup `json:"groups"`
	// Cells are the answers of all pairs, row by row, as runs: answer, count, answer, count, ...
	Cells []int      `json:"cells"`
	Seen  []pageSeen `json:"seen,omitempty"`
	Limit int        `json:"limit"` // of boxes that are drawn one by one
}

type pageGroup struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	Boxes  []int             `json:"boxes"`
}

type pageSeen struct {
	From int `json:"from"`
	To   int `json:"to"`
	*pairSeen
}

// writeHTML writes a page that needs nothing but itself. Its policy allows its own script and style by their hashes and
// nothing else, so that no name in a manifest can become code and nothing is ever fetched.
func (v View) writeHTML(w io.Writer) error {
	data, err := json.Marshal(v.page()) // escapes <, > and &: no name can end the element that it stands in
	if err != nil {
		return fmt.Errorf("map page: %w", err)
	}
	title := "Ringfence map"
	if v.Title != "" {
		title = v.Title + " · " + title
	}
	style, code := asset("page.css"), script()
	_, err = strings.NewReplacer("%TITLE%", html.EscapeString(title), "%STYLE%", style, "%SCRIPT%", code, "%DATA%", string(data),
		"%STYLEHASH%", hash(style), "%SCRIPTHASH%", hash(code)).WriteString(w, asset("page.html"))
	return err
}

// hash is the hash of an inline script or style as a Content-Security-Policy names it.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

func (v View) page() page {
	p := page{document: v.document(), Limit: MaxBoxes}
	for _, g := range groups(v.Map) {
		out := pageGroup{Name: g.name, Boxes: g.boxes}
		if v.Map.Boxes[g.boxes[0]].Kind == reach.Workload {
			out.Labels = v.Map.State.Namespace(g.name).Labels.Map()
		}
		p.Groups = append(p.Groups, out)
	}
	for from := range v.Map.Boxes {
		for to := range v.Map.Boxes {
			a := v.Map.AnswerIndex(from, to)
			if n := len(p.Cells); n > 0 && p.Cells[n-2] == a {
				p.Cells[n-1]++
				continue
			}
			p.Cells = append(p.Cells, a, 1)
		}
	}
	for k, s := range v.seenByPair() {
		p.Seen = append(p.Seen, pageSeen{k.from, k.to, s})
	}
	slices.SortFunc(p.Seen, func(a, b pageSeen) int {
		if a.From != b.From {
			return a.From - b.From
		}
		return a.To - b.To
	})
	return p
}
