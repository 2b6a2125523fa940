package report

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
)

// Tool names the program that found something.
type Tool struct {
	Name    string
	Version string // may be empty
	URL     string
}

// SARIF writes findings as a SARIF 2.1.0 log with one run. rules describe the codes, in the order in which they are to
// be listed; a code that has none is an error. Suppressed findings are in it, marked as such.
func SARIF(w io.Writer, tool Tool, rules []Rule, findings []Finding) error {
	index := map[string]int{}
	driver := sarifDriver{Name: tool.Name, Version: tool.Version, InformationURI: tool.URL, Rules: []sarifRule{}}
	for i, r := range rules {
		index[r.Code] = i
		driver.Rules = append(driver.Rules, sarifRule{ID: r.Code, Name: r.Name, Short: sarifText{r.Short}, Full: sarifText{r.Help},
			Configuration: sarifConfiguration{r.Level.String()}})
	}
	run := sarifRun{Tool: sarifTool{driver}, ColumnKind: "unicodeCodePoints", Results: []sarifResult{}}
	for _, f := range findings {
		i, known := index[f.Code]
		if !known {
			return fmt.Errorf("write sarif: no rule describes the code %q", f.Code)
		}
		run.Results = append(run.Results, sarifOf(f, i))
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(sarifLog{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{run}})
}

func sarifOf(f Finding, rule int) sarifResult {
	r := sarifResult{RuleID: f.Code, RuleIndex: rule, Level: f.Level.String(), Message: sarifText{f.text()},
		Fingerprints: map[string]string{"ringfence/v1": fingerprint(f)}}
	if f.Place.File != "" {
		r.Locations = []sarifLocation{sarifPlace(f.Place)}
	}
	for _, p := range f.Related {
		if p.File != "" {
			r.Related = append(r.Related, sarifPlace(p))
		}
	}
	if f.Suppressed {
		r.Suppressions = []sarifSuppression{{"inSource", f.Reason}}
	}
	return r
}

// fingerprint tells findings apart across changes of the file that only move lines.
func fingerprint(f Finding) string {
	sum := sha256.Sum256([]byte(f.Code + "\n" + slashed(f.Place.File) + "\n" + f.Message))
	return hex.EncodeToString(sum[:8])
}

func sarifPlace(p Place) sarifLocation {
	l := sarifLocation{Physical: sarifPhysical{Artifact: sarifArtifact{URI: fileURI(p.File)}}}
	if p.Line > 0 {
		l.Physical.Region = &sarifRegion{p.Line}
	}
	if p.Message != "" {
		l.Message = &sarifText{p.Message}
	}
	return l
}

// fileURI is a relative reference for a relative path, which viewers look for in the repository.
func fileURI(path string) string {
	u := url.URL{Path: slashed(path)}
	if filepath.IsAbs(path) {
		u.Scheme = "file"
	}
	return u.String()
}

type sarifLog struct {
	Schema  string     `json:"$schema"`
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool       sarifTool     `json:"tool"`
	ColumnKind string        `json:"columnKind"`
	Results    []sarifResult `json:"results"`
}

type sarifTool struct {
	Driver sarifDriver `json:"driver"`
}

type sarifDriver struct {
	Name           string      `json:"name"`
	Version        string      `json:"version,omitempty"`
	InformationURI string      `json:"informationUri,omitempty"`
	Rules          []sarifRule `json:"rules"`
}

type sarifRule struct {
	ID            string             `json:"id"`
	Name          string             `json:"name,omitempty"`
	Short         sarifText          `json:"shortDescription"`
	Full          sarifText          `json:"fullDescription"`
	Configuration sarifConfiguration `json:"defaultConfiguration"`
}

type sarifConfiguration struct {
	Level string `json:"level"`
}

type sarifText struct {
	Text string `json:"text"`
}

type sarifResult struct {
	RuleID       string             `json:"ruleId"`
	RuleIndex    int                `json:"ruleIndex"`
	Level        string             `json:"level"`
	Message      sarifText          `json:"message"`
	Locations    []sarifLocation    `json:"locations,omitempty"`
	Related      []sarifLocation    `json:"relatedLocations,omitempty"`
	Fingerprints map[string]string  `json:"partialFingerprints"`
	Suppressions []sarifSuppression `json:"suppressions,omitempty"`
}

type sarifLocation struct {
	Physical sarifPhysical `json:"physicalLocation"`
	Message  *sarifText    `json:"message,omitempty"`
}

type sarifPhysical struct {
	Artifact sarifArtifact `json:"artifactLocation"`
	Region   *sarifRegion  `json:"region,omitempty"`
}

type sarifArtifact struct {
	URI string `json:"uri"`
}

type sarifRegion struct {
	StartLine int `json:"startLine"`
}

type sarifSuppression struct {
	Kind          string `json:"kind"`
	Justification string `json:"justification"`
}
