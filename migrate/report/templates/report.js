"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const PRINT_ROWS = 250, TREE_ROWS = 50, TREEMAP_CELLS = 120;
  const SVG = "http://www.w3.org/2000/svg";
  const UNITS = ["kB", "MB", "GB", "TB", "PB", "EB"];
  const KINDS = { own: "in one image only", shared: "shared", merged: "merged" };
  let exact = false;

  // --- texts: the same rounding as the text report ---------------------------------------------------------------
  const number = (value) => value.toLocaleString("en-US");
  function size(bytes) {
    if (bytes === null || bytes === undefined) return "not computed";
    if (exact || bytes < 1000) return `${number(bytes)} B`;
    let value = bytes, unit = "";
    for (unit of UNITS) { value /= 1000; if (value < 999.5) break; }
    return `${value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)} ${unit}`;
  }
  const plural = (count, one) => `${number(count)} ${one}${count === 1 ? "" : "s"}`;
  const title = (image) => image.references[0] || image.legacy.slice(0, 12);
  const users = (row) => {
    const names = row.users.map((index) => title(data.images[index])), shown = [...new Set(names)].slice(0, 3);
    const more = row.user_count - names.filter((name) => shown.includes(name)).length;
    return shown.join(", ") + (more ? ` and ${number(more)} more` : "");
  };

  // --- elements: text nodes only, so that no name from a source is ever markup -----------------------------------
  function el(tag, attributes, ...children) {
    const element = tag === "svg" || attributes?.svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "svg" || value === null || value === undefined || value === false) continue;
      if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }
  const bytes = (value) => el("span", { class: "bytes", "data-bytes": value ?? "" }, size(value));
  const announce = (text) => { document.getElementById("status").textContent = text; };

  async function copy(text, what) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = el("textarea", { class: "hidden" }, text);
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    announce(`Copied ${what}`);
  }
  function id(value, what, prefix = "sha256:") {
    if (!value) return el("span", { class: "quiet" }, "none");
    const whole = prefix + value;
    const button = el("button", { type: "button", class: "copy", "aria-label": `Copy ${what} ${value.slice(0, 12)}` }, "copy");
    button.addEventListener("click", async () => {
      await copy(whole, what);
      button.textContent = "copied";
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    });
    return el("span", { class: "id", title: whole }, el("span", { class: "start" }, value.slice(0, 12) + (value.length > 12 ? "…" : "")), button);
  }
  function meter(parts, whole, label) {
    const svg = el("svg", { class: "meter", viewBox: "0 0 100 8", preserveAspectRatio: "none", role: "img", "aria-label": label });
    svg.append(el("rect", { svg: true, class: "fill-track", width: 100, height: 8 }));
    let x = 0;
    for (const [kind, value] of parts) {
      const width = whole ? (100 * value) / whole : 0;
      if (width > 0) svg.append(el("rect", { svg: true, class: `fill-${kind}`, x: x.toFixed(3), width: width.toFixed(3), height: 8 }));
      x += width;
    }
    return svg;
  }

  // --- a table of any length: sorted, searched, a page at a time -------------------------------------------------
  const collator = new Intl.Collator("en", { numeric: true });
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : collator.compare(String(a ?? ""), String(b ?? "")));

  class Table {
    constructor(host, { name, columns, rows, text, within, detail, sort, descending }) {
      Object.assign(this, { host, name, columns, rows, text, within, detail });
      this.sortBy = sort ?? -1;
      this.descending = descending ?? false;
      this.page = 0;
      this.pageSize = 25;
      this.query = "";
      this.texts = null;
      this.build();
      this.update();
    }
    build() {
      const key = this.name.replace(/\W+/g, "-").toLowerCase();
      this.body = el("tbody");
      this.headings = this.columns.map((column, index) => el("th", { scope: "col", class: column.numeric ? "right" : null },
        column.value ? el("button", { type: "button", on: { click: () => this.sort(index) } }, column.title) : column.title));
      const heading = el("tr", null, ...(this.detail ? [el("th", { scope: "col", class: "detail-toggle" }, el("span", { class: "hidden" }, "Details"))] : []), ...this.headings);
      this.found = el("span", { class: "quiet", role: "status" });
      this.search = el("input", { type: "search", id: `search-${key}`, autocomplete: "off", spellcheck: "false" });
      let timer = 0;
      this.search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => this.find(this.search.value), this.rows.length > 2000 ? 150 : 0); });
      this.position = el("span", { class: "quiet" });
      this.back = el("button", { type: "button", on: { click: () => this.turn(-1) } }, "Previous");
      this.forth = el("button", { type: "button", on: { click: () => this.turn(1) } }, "Next");
      const sizes = el("select", { on: { change: (event) => { this.pageSize = Number(event.target.value); this.page = 0; this.update(); } } },
        ...[25, 100, 500].map((count) => el("option", { value: count }, String(count))));
      this.pager = el("div", { class: "pager" }, this.back, this.position, this.forth, el("label", null, "Rows ", sizes));
      const tools = el("div", { class: "tools" }, el("label", { for: this.search.id }, `Search ${this.name.toLowerCase()}`), this.search, this.found);
      tools.hidden = this.rows.length < 6;
      const table = el("table", { role: "table" }, el("caption", { class: "hidden" }, this.name), el("thead", { role: "rowgroup" }, heading), this.body);
      this.body.setAttribute("role", "rowgroup");
      heading.setAttribute("role", "row");
      for (const cell of heading.children) cell.setAttribute("role", "columnheader");
      this.host.classList.add("cards");
      this.host.append(tools, el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${this.name}, table` }, table), this.pager);
    }
    sort(index) {
      this.descending = this.sortBy === index ? !this.descending : Boolean(this.columns[index].numeric);
      this.sortBy = index;
      this.page = 0;
      this.update();
      announce(`Sorted by ${this.columns[index].title}, ${this.descending ? "descending" : "ascending"}`);
    }
    find(query) {
      this.query = query.trim().toLowerCase();
      this.page = 0;
      this.update();
    }
    turn(step) {
      this.page += step;
      this.update();
    }
    matching() {
      let rows = this.rows;
      if (this.query) {
        this.texts ??= new Map(this.rows.map((row) => [row, this.text(row).toLowerCase()]));
        const tests = this.query.split(/\s+/).map((word) => {
          const inner = this.within?.(word);
          return (row) => this.texts.get(row).includes(word) || Boolean(inner?.(row));
        });
        rows = rows.filter((row) => tests.every((test) => test(row)));
      }
      if (this.sortBy >= 0) {
        const value = this.columns[this.sortBy].value, sign = this.descending ? -1 : 1;
        rows = rows.map((row) => [value(row), row]).sort((a, b) => sign * compare(a[0], b[0])).map((pair) => pair[1]);
      }
      return rows;
    }
    update(all = false) {
      const rows = this.matching(), pages = Math.max(1, Math.ceil(rows.length / this.pageSize));
      this.page = Math.min(Math.max(0, this.page), pages - 1);
      const first = all ? 0 : this.page * this.pageSize, last = all ? Math.min(rows.length, PRINT_ROWS) : Math.min(rows.length, first + this.pageSize);
      this.body.replaceChildren(...rows.slice(first, last).flatMap((row) => this.row(row)));
      if (!rows.length) this.body.append(el("tr", { role: "row" }, el("td", { role: "cell", colspan: this.columns.length + (this.detail ? 1 : 0), class: "quiet plain" }, this.query ? "Nothing matches." : "None.")));
      if (all && last < rows.length) this.body.append(el("tr", { role: "row" }, el("td", { role: "cell", colspan: this.columns.length + (this.detail ? 1 : 0) }, `… and ${number(rows.length - last)} more`)));
      this.found.textContent = this.query ? `${number(rows.length)} of ${number(this.rows.length)}` : "";
      this.position.textContent = rows.length ? `${number(first + 1)} to ${number(last)} of ${number(rows.length)}` : "";
      this.back.disabled = this.page === 0;
      this.forth.disabled = this.page >= pages - 1;
      this.pager.hidden = this.rows.length <= 25;
      this.headings.forEach((heading, index) => {
        if (this.columns[index].value) heading.setAttribute("aria-sort", index !== this.sortBy ? "none" : this.descending ? "descending" : "ascending");
      });
    }
    row(row) {
      const cells = this.columns.map((column, index) => el(index === 0 ? "th" : "td", {
        role: index === 0 ? "rowheader" : "cell", scope: index === 0 ? "row" : null, "data-label": index === 0 ? null : column.title,
        class: [column.numeric ? "right" : "", column.class ?? ""].join(" ").trim() || null,
      }, column.render ? column.render(row) : String(column.value(row) ?? "")));
      if (!this.detail) return [el("tr", { role: "row" }, ...cells)];
      const toggle = el("button", { type: "button", "aria-expanded": "false", "aria-label": `Details of ${cells[0].textContent.slice(0, 80)}` }, "+");
      const line = el("tr", { role: "row" }, el("td", { role: "cell", class: "plain detail-toggle" }, toggle), ...cells);
      let opened = null;
      toggle.addEventListener("click", () => {
        if (opened) { opened.remove(); opened = null; } else {
          opened = el("tr", { role: "row", class: "detail" }, el("td", { role: "cell", class: "plain", colspan: this.columns.length + 1 }, this.detail(row)));
          line.after(opened);
        }
        toggle.setAttribute("aria-expanded", String(Boolean(opened)));
        toggle.textContent = opened ? "−" : "+";
      });
      return [line];
    }
  }

  // --- what is in the tables ---------------------------------------------------------------------------------------
  const whole = (image) => image.own + image.shared + image.merged;
  const largest = data.images.reduce((most, image) => Math.max(most, whole(image)), 0);
  const lines = (texts, empty) => el("span", { class: "wrap" }, ...(texts.length ? texts : [empty]).flatMap((text, index) => (index ? [el("br"), text] : [text])));
  const pair = (label, value) => el("span", null, el("span", { class: "quiet" }, label), value);

  const layerAt = (index) => ({ legacy: data.layers[index][0], ...data.contents[data.layers[index][1]] });
  function layersNamed(word) {  // each layer is looked at once, however many images it is in
    const digits = word.replace(/^sha256:/, "");
    if (!/^[0-9a-f]{4,64}$/.test(digits)) return null;
    const named = data.contents.map((content) => Boolean(content.diff?.includes(digits) || content.blob?.includes(digits)));
    const found = data.layers.map(([legacy, content]) => named[content] || legacy.includes(digits));
    return (image) => image.layers.some((index) => found[index]);
  }
  const byManifest = new Map(data.images.map((image) => [image.manifest || image.image, image]));
  function claimant(digest, reference) {
    const image = byManifest.get(digest.slice(7)), now = image?.names.filter((name) => name !== reference) ?? [];
    const state = image ? `${image.source}, made ${(image.created || "at an unknown time").slice(0, 10)}` : "in the target before this run";
    return el("span", null, id(digest.slice(7), "manifest digest"), ` ${state}`, reference === null ? null : `; ${now.length ? `only ${now.join(", ")}` : "has no name now"}`);
  }
  function layerTable(image) {
    const head = ["Layer", "DiffID", "Blob", "Size", "Stored", "Bytes from"].map((text, index) => el("th", { scope: "col", class: index === 3 || index === 4 ? "right" : null }, text));
    const rows = image.layers.map(layerAt).map((layer) => el("tr", null,
      el("td", null, id(layer.legacy, "legacy ID", "")), el("td", null, id(layer.diff, "diffID")), el("td", null, layer.blob ? id(layer.blob, "blob digest") : el("span", { class: "quiet" }, layer.empty ? "empty, dropped" : "not computed")),
      el("td", { class: "right" }, bytes(layer.size)), el("td", { class: "right" }, bytes(layer.stored)),
      el("td", { class: "wrap" }, [layer.damaged ? "damaged" : "", layer.origin, layer.note, ...(layer.flags ?? [])].filter(Boolean).join("; "))));
    return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Layers of ${title(image)}` }, el("table", null, el("caption", { class: "hidden" }, `Layers of ${title(image)}, base first`), el("thead", null, el("tr", null, ...head)), el("tbody", null, ...rows)));
  }
  function imageDetail(image) {
    const facts = [["Source", image.source], ["Names in the target", image.names.join(", ")], ["Made from", image.container], ["Used by containers", image.containers.join(", ")], ["Digests in the source", image.digests.join(", ")], ["Warnings", image.warnings.join("; ")]].filter(([, value]) => value);
    return el("div", null, layerTable(image), el("dl", { class: "options" }, ...facts.map(([name, value]) => el("div", null, el("dt", null, name), el("dd", null, value)))));
  }
  const tables = {
    repositories: {
      name: "Repositories", rows: data.repositories, text: (row) => row.name,
      columns: [
        { title: "Repository", value: (row) => row.name, class: "wrap" },
        { title: "Images", numeric: true, value: (row) => row.images, render: (row) => number(row.images) },
        { title: "Before", numeric: true, value: (row) => row.before, render: (row) => bytes(row.before) },
        { title: "After", numeric: true, value: (row) => row.after, render: (row) => bytes(row.after) },
        { title: "Saved", numeric: true, value: (row) => row.saved, render: (row) => bytes(row.saved) },
        { title: "Share", render: (row) => meter([["own", row.after - row.elsewhere], ["shared", row.elsewhere], ["merged", row.saved]], Math.max(1, ...data.repositories.map((other) => other.before)), `${row.name}: ${size(row.after)} kept, of it ${size(row.elsewhere)} also in other repositories; ${size(row.saved)} saved`) },
      ],
    },
    images: {
      name: "Images", rows: data.images, detail: imageDetail, within: layersNamed,
      text: (image) => [...image.references, ...image.names, image.legacy, "sha256:" + image.image, "sha256:" + image.manifest, image.platform, image.created, image.source, ...image.containers, ...image.digests, ...image.warnings, image.exact ? "" : "not exact"].join("\n"),
      columns: [
        { title: "Reference", value: (image) => image.references[0] ?? "\uffff" + image.legacy, class: "wrap", render: (image) => el("span", null, lines(image.references, "<none>"), image.exact ? null : el("span", { class: "mark" }, "not exact"), image.warnings.length ? el("span", { class: "mark" }, plural(image.warnings.length, "warning")) : null) },
        { title: "Legacy ID → image ID → digest", value: (image) => image.legacy, render: (image) => el("span", { class: "ids" }, pair("legacy ID", id(image.legacy, "legacy ID", "")), pair("image ID", id(image.image, "image ID")), pair("digest", id(image.manifest, "manifest digest"))) },
        { title: "Layers", numeric: true, value: (image) => image.layers.length, render: (image) => number(image.layers.length) },
        { title: "Size", numeric: true, value: whole, render: (image) => bytes(whole(image)) },
        { title: "Made of", value: (image) => image.own, numeric: false, render: (image) => meter([["own", image.own], ["shared", image.shared], ["merged", image.merged]], largest, `${size(image.own)} only here, ${size(image.shared)} shared, ${size(image.merged)} merged`) },
        { title: "Created", class: "short", value: (image) => image.created, render: (image) => el("span", { title: image.created }, (image.created || "").slice(0, 10)) },
        { title: "Platform", class: "short", value: (image) => image.platform },
      ],
    },
    duplicates: {
      name: "Duplicates", rows: data.duplicates,
      text: (row) => [row.diff, ...row.ids, ...row.users.map((index) => title(data.images[index]))].join("\n"),
      columns: [
        { title: "DiffID", value: (row) => row.diff, render: (row) => id(row.diff, "diffID") },
        { title: "Saved", numeric: true, value: (row) => row.saved, render: (row) => bytes(row.saved) },
        { title: "Copies", numeric: true, value: (row) => row.copies, render: (row) => number(row.copies) },
        { title: "Size", numeric: true, value: (row) => row.size, render: (row) => bytes(row.size) },
        { title: "Share", render: (row) => meter([["merged", row.saved]], Math.max(1, data.duplicates[0].saved), `${size(row.saved)} saved`) },
        { title: "Used by", class: "wrap", render: users },
        { title: "Legacy IDs", class: "wrap", render: (row) => el("code", null, row.ids.slice(0, 4).map((text) => text.slice(0, 12)).join(" ") + (row.ids.length > 4 ? ` and ${number(row.ids.length - 4)} more` : "")) },
      ],
    },
    containers: {
      name: "Containers", rows: data.containers, text: (row) => [row.name, row.id, row.image, row.state, row.source, ...row.volumes.flatMap((volume) => [volume.path, volume.source])].join("\n"),
      columns: [
        { title: "Container", class: "wrap", value: (row) => row.name, render: (row) => el("span", null, row.name, " ", id(row.id, "container ID", "")) },
        { title: "State", class: "short", value: (row) => row.state },
        { title: "Image", value: (row) => row.image, render: (row) => id(row.image, "legacy ID", "") },
        { title: "Changed", class: "right", value: (row) => row.changed_bytes ?? -1, render: (row) => row.changed_bytes === null ? "not known" : bytes(row.changed_bytes) },
        { title: "Volumes", class: "wrap", value: (row) => row.volumes.length, render: (row) => row.volumes.length ? el("ul", null, ...row.volumes.map((volume) => el("li", null, `${volume.path}: ${volume.source} `, volume.bytes === null ? el("span", { class: "quiet" }, volume.kind === "bind" ? "bind mount" : "not here") : bytes(volume.bytes)))) : el("span", { class: "quiet" }, "none") },
      ],
    },
    volumes: {
      name: "Volumes", rows: data.volumes, text: (row) => [row.path, row.source].join("\n"),
      columns: [
        { title: "Path", class: "wrap", value: (row) => row.path },
        { title: "Size", class: "right", value: (row) => row.bytes ?? -1, render: (row) => row.bytes === null ? "not counted" : bytes(row.bytes) },
        { title: "Source", class: "wrap", value: (row) => row.source },
      ],
    },
    conflicts: {
      name: "Conflicts", rows: data.conflicts, text: (row) => [row.reference, ...[row.kept, ...row.others].flatMap((digest) => [digest, byManifest.get(digest.slice(7))?.source])].join("\n"),
      columns: [
        { title: "Reference", class: "wrap", value: (row) => row.reference },
        { title: "Platform", class: "short", value: (row) => [row.platform.os, row.platform.architecture, row.platform.variant].filter(Boolean).join("/") },
        { title: "Has the name", class: "wrap", render: (row) => claimant(row.kept, null) },
        { title: "Claimed it too", class: "wrap", render: (row) => el("span", { class: "ids" }, ...row.others.map((digest) => claimant(digest, row.reference))) },
      ],
    },
    failures: {
      name: "Failures", rows: data.failures, text: (row) => [row.source, ...row.references, row.legacy_id, row.layer, row.error, row.message].join("\n"),
      columns: [
        { title: "Image", class: "wrap", value: (row) => row.references[0] || row.legacy_id || row.source, render: (row) => lines(row.references, row.legacy_id ? row.legacy_id.slice(0, 12) : "the whole source") },
        { title: "Reason", class: "wrap", value: (row) => row.error, render: (row) => el("span", null, el("strong", { class: "bad-text" }, row.error), ": " + row.message) },
        { title: "Source", class: "wrap", value: (row) => row.source },
        { title: "Layer", value: (row) => row.layer, render: (row) => id(row.layer, "legacy ID", "") },
      ],
    },
    warnings: {
      name: "Warnings", rows: data.warnings, text: (row) => row.where + "\n" + row.message,
      columns: [
        { title: "Where", class: "wrap", value: (row) => row.where || "the run" },
        { title: "Warning", class: "wrap", value: (row) => row.message },
      ],
    },
  };

  // --- treemap: the largest contents, by area ----------------------------------------------------------------------
  const copies = new Map(data.duplicates.map((row) => [row.diff, row.copies]));
  function contentUses() {  // every content once: who uses it, and how many copies of it there were
    const uses = new Map();
    for (const image of data.images) {
      for (const index of image.layers) {
        const layer = data.contents[data.layers[index][1]];
        if (!layer.diff || layer.empty) continue;
        let use = uses.get(layer.diff);
        if (!use) uses.set(layer.diff, use = { diff: layer.diff, size: layer.size, images: 0, copies: copies.get(layer.diff) ?? 1, first: image, last: null });
        if (use.last !== image) use.images += 1;
        use.last = image;
      }
    }
    return [...uses.values()].filter((use) => use.size > 0);
  }
  const kind = (use) => (use.copies > 1 ? "merged" : use.images > 1 ? "shared" : "own");

  function squarify(items, x, y, width, height, place) {
    let rest = items, total = items.reduce((sum, item) => sum + item.size, 0);
    while (rest.length && total > 0 && width > 0 && height > 0) {
      const side = Math.min(width, height), scale = (width * height) / total;
      let row = [], area = 0, worst = Infinity;
      for (const item of rest) {
        const next = area + item.size * scale, sizes = [...row, item].map((entry) => entry.size * scale);
        const ratio = Math.max((side * side * Math.max(...sizes)) / (next * next), (next * next) / (side * side * Math.min(...sizes)));
        if (row.length && ratio > worst) break;
        row.push(item); area = next; worst = ratio;
      }
      const thick = area / side;
      let at = 0;
      for (const item of row) {
        const long = (item.size * scale) / thick;
        if (width >= height) place(item, x, y + at, thick, long); else place(item, x + at, y, long, thick);
        at += long;
      }
      if (width >= height) { x += thick; width -= thick; } else { y += thick; height -= thick; }
      total -= row.reduce((sum, item) => sum + item.size, 0);
      rest = rest.slice(row.length);
    }
  }
  function treemap(host) {
    const all = contentUses().sort((a, b) => b.size - a.size || (a.diff < b.diff ? -1 : 1));
    if (!all.length) { host.append(el("p", { class: "quiet" }, "No layer has content.")); return; }
    const shown = all.slice(0, TREEMAP_CELLS), part = shown.reduce((sum, use) => sum + use.size, 0), sum = all.reduce((total, use) => total + use.size, 0);
    const width = host.clientWidth || 900, height = Math.round(Math.min(360, Math.max(200, width / 3)));
    const sums = Object.keys(KINDS).map((name) => `${KINDS[name]}: ${size(all.filter((use) => kind(use) === name).reduce((sum, use) => sum + use.size, 0))}`);
    const svg = el("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Different layers by size. ${sums.join("; ")}. The largest is ${size(all[0].size)}.` });
    squarify(shown, 0, 0, width, height, (use, x, y, w, h) => {
      const text = title(use.first);
      const rect = el("rect", { svg: true, class: `fill-${kind(use)}`, x: x.toFixed(1), y: y.toFixed(1), width: w.toFixed(1), height: h.toFixed(1) });
      rect.append(el("title", { svg: true }, `${size(use.size)}, ${plural(use.images, "image")}, ${use.copies > 1 ? `${use.copies} copies merged` : KINDS[kind(use)]}\n${text}\nsha256:${use.diff}`));
      svg.append(rect);
      const room = Math.floor((w - 10) / 7.7);
      if (room >= size(use.size).length && h >= 20) svg.append(el("text", { svg: true, x: (x + 5).toFixed(1), y: (y + 15).toFixed(1), "aria-hidden": "true" }, size(use.size)));
      if (room >= 8 && h >= 38) svg.append(el("text", { svg: true, x: (x + 5).toFixed(1), y: (y + 31).toFixed(1), "aria-hidden": "true" }, text.length > room ? text.slice(0, room - 1) + "…" : text));
    });
    host.replaceChildren(svg);
    if (shown.length < all.length) host.append(el("p", { class: "quiet" }, `The largest ${number(shown.length)} of ${number(all.length)} different layers, ${size(part)} of ${size(sum)}.`));
  }

  // --- layer tree: by diffID from the base, so that merged layers stand once ---------------------------------------
  function plant() {
    const root = { children: new Map(), images: [], under: 0 };
    data.images.forEach((image) => {
      let node = root;
      for (const index of image.layers) {
        const layer = data.contents[data.layers[index][1]];
        if (!layer.diff || layer.empty) continue;
        let child = node.children.get(layer.diff);
        if (!child) { child = { layer, children: new Map(), images: [], under: 0 }; node.children.set(layer.diff, child); }
        child.under += 1;
        node = child;
      }
      node.images.push(image);
    });
    return root;
  }
  function branch(node, list) {
    const children = [...node.children.values()].sort((a, b) => b.under - a.under || b.layer.size - a.layer.size || compare(a.layer.diff, b.layer.diff));
    const more = (start) => {
      children.slice(start, start + TREE_ROWS).forEach((child) => list.append(twig(child)));
      if (start + TREE_ROWS < children.length) {
        const button = el("button", { type: "button" }, `${number(children.length - start - TREE_ROWS)} more`);
        const item = el("li", null, button);
        button.addEventListener("click", () => { item.remove(); more(start + TREE_ROWS); });
        list.append(item);
      }
    };
    more(0);
  }
  function twig(start) {
    const run = [start];
    let end = start;
    while (!end.images.length && end.children.size === 1) { end = [...end.children.values()][0]; run.push(end); }
    const total = run.reduce((sum, node) => sum + node.layer.size, 0);
    const most = Math.max(...run.map((node) => copies.get(node.layer.diff) ?? 1));
    const names = end.images.slice(0, 3).map(title).join(", ") + (end.images.length > 3 ? ` and ${number(end.images.length - 3)} more` : "");
    const summary = [el("span", { class: "size" }, bytes(total)), el("span", { class: `swatch ${most > 1 ? "merged" : start.under > 1 ? "shared" : "own"}` }),
      run.length > 1 ? `${number(run.length)} layers` : el("code", null, start.layer.diff.slice(0, 12)), names ? " " : null, names ? el("strong", null, names) : null,
      start.under > 1 ? el("span", { class: "mark" }, `${number(start.under)} images`) : null, most > 1 ? el("span", { class: "mark" }, `${number(most)} copies merged`) : null];
    if (run.length === 1 && !end.children.size) return el("li", null, el("div", { class: "leaf" }, ...summary));
    const inner = el("ul");
    const details = el("details", null, el("summary", null, ...summary), inner);
    details.addEventListener("toggle", () => {
      if (inner.childElementCount) return;
      if (run.length > 1) run.forEach((node) => inner.append(el("li", null, el("div", { class: "leaf" }, el("span", { class: "size" }, bytes(node.layer.size)), el("code", null, node.layer.diff.slice(0, 12)), copies.has(node.layer.diff) ? el("span", { class: "mark" }, `${number(copies.get(node.layer.diff))} copies merged`) : null))));
      branch(end, inner);
    });
    return el("li", null, details);
  }

  function tree(host) {
    const list = el("ul");
    host.classList.add("tree");
    host.append(list);
    branch(plant(), list);
    if (!list.childElementCount) host.replaceChildren(el("p", { class: "quiet" }, "No layer has content."));
  }
  function later(section, build) {  // when the reader comes near, or at the latest when it is printed
    const once = () => { observer.disconnect(); removeEventListener("beforeprint", once); build(); };
    const observer = new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting)) once(); }, { rootMargin: "800px" });
    observer.observe(section);
    addEventListener("beforeprint", once);
  }

  // --- controls ----------------------------------------------------------------------------------------------------
  function controls() {
    const theme = document.getElementById("theme"), root = document.documentElement;
    const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
    const show = () => { theme.textContent = dark() ? "Light" : "Dark"; };
    theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; show(); });
    show();
    document.getElementById("exact-bytes").addEventListener("change", (event) => {
      exact = event.target.checked;
      document.querySelectorAll("[data-bytes]").forEach((node) => { if (node.dataset.bytes) node.textContent = size(Number(node.dataset.bytes)); });
      shown.forEach((table) => table.update());
    });
    const everywhere = document.getElementById("search-all"), summary = document.getElementById("found-all");
    const findAll = (query) => {
      shown.forEach((table) => { table.search.value = query; table.find(query); });
      const hits = shown.filter((table) => table.query).map((table) => [table, table.matching().length]).filter((pair) => pair[1]);
      summary.replaceChildren(...(query.trim() ? hits.flatMap(([table, found], index) => [index ? ", " : "", el("a", { href: `#${table.host.closest("section").id}` }, `${number(found)} in ${table.name.toLowerCase()}`)]) : []));
      if (query.trim() && !hits.length) summary.textContent = "nothing found";
    };
    let timer = 0;
    everywhere.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => findAll(everywhere.value), 150); });
    document.querySelectorAll("a[data-find]").forEach((link) => link.addEventListener("click", () => {
      const table = shown.find((one) => one.host.closest("section").id === link.hash.slice(1));
      table.search.value = link.dataset.find;
      table.find(link.dataset.find);
    }));
    document.querySelector(".controls").hidden = false;
    addEventListener("beforeprint", () => shown.forEach((table) => table.update(true)));
    addEventListener("afterprint", () => shown.forEach((table) => table.update()));
  }

  const shown = [];
  if (data.warnings.length) document.getElementById("warnings").hidden = false;
  document.querySelectorAll("[data-table]").forEach((host) => {
    const table = tables[host.dataset.table];
    if (host.dataset.table !== "warnings" || data.warnings.length) shown.push(new Table(host, table));
  });
  (data.deep ?? []).forEach((list) => {
    const host = el("div"), most = Math.max(1, ...list.rows.map((row) => row.bytes));
    document.getElementById("deep-tables").append(el("h3", null, list.title + (list.total ? ": " : ""), list.total ? bytes(list.total) : null), host);
    shown.push(new Table(host, { name: list.title, rows: list.rows, text: (row) => row.what + "\n" + row.where, columns: [
      { title: "What", class: "wrap", value: (row) => row.what },
      { title: "Bytes", numeric: true, value: (row) => row.bytes, render: (row) => bytes(row.bytes) },
      { title: "Share", render: (row) => meter([["merged", row.bytes]], most, size(row.bytes)) },
      { title: "Where", class: "wrap", value: (row) => row.where },
    ] }));
  });
  controls();
  later(document.getElementById("layers"), () => {
    treemap(document.getElementById("treemap"));
    tree(document.getElementById("tree"));
  });
  document.documentElement.dataset.ready = "true";
})();
