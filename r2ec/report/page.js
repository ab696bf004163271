"use strict";
(() => {
  const users = JSON.parse(document.getElementById("examples").textContent);
  const root = document.documentElement;
  const at = (id) => document.getElementById(id);
  const MOST_SHOWN = 100;

  const theme = at("theme");
  const isDark = () => root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    nameTheme();
  });
  theme.hidden = false;
  nameTheme();

  // Texts go through textContent alone: a title is never read as HTML.
  const make = (tag, attributes, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    for (const child of children) node.append(child);
    return node;
  };
  const text = (value) => value === null || value === undefined ? "" : String(value);

  const outcome = (user) => {
    if (user.status === "error") return "error";
    if (!user.later.length) return "none";
    return user.later.some((row) => row.rank !== null) ? "hit" : "miss";
  };
  const words = new Map();
  const haystack = (user) => {
    if (!words.has(user)) {
      const titles = [...user.history, ...user.list, ...user.later].map((row) => row.title);
      const reasoning = user.reasoning.map((segment) => segment[0]).join("");
      words.set(user, [user.user, reasoning, ...titles].join("\n").toLocaleLowerCase());
    }
    return words.get(user);
  };

  const table = (caption, columns, rows) => {
    const head = make("tr", {}, ...columns.map((name) => make("th", { scope: "col" }, name)));
    const body = rows.map((cells) => make("tr", {}, ...cells));
    const whole = make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
    return make("div", { class: "wide", tabindex: "0", role: "region", "aria-label": caption }, whole);
  };
  const item = (row) => {
    const cell = make("td", { class: "item", dir: "auto" }, row.title);
    const known = row.title.toLocaleLowerCase().includes(text(row.store).toLocaleLowerCase());
    if (row.store && !known) cell.append(make("small", { dir: "auto" }, row.store));
    if (row.bought) cell.append(make("small", { class: "bought" }, "✓ bought later"));
    return cell;
  };
  const number = (value) => make("td", { class: "n" }, text(value));
  const stars = (rating) => rating === null || rating === undefined ? "" : `${rating} ★`;

  const reasoning = (user) => {
    const quote = make("blockquote", { dir: "auto" });
    for (const [piece, ranks] of user.reasoning) {
      if (!ranks.length) { quote.append(piece); continue; }
      const where = `names item ${ranks.join(", ")} of the list`;
      const shown = ranks.length > 3 ? `${ranks.slice(0, 3).join(",")}…` : ranks.join(",");
      quote.append(make("mark", { title: where }, piece, make("sup", {}, shown)));
    }
    if (!user.reasoning.length) quote.append("(nothing written)");
    return quote;
  };

  const page = (user) => {
    const parts = [make("h3", {}, user.user)];
    if (user.status === "error") {
      parts.push(make("p", { class: "bad" }, `Failed: ${text(user.error) || "no reason is known"}`));
    }
    parts.push(make("h4", {}, "History, oldest first"), table("History", ["When (UTC)", "Rating", "Item"],
      user.history.map((row) => [
        make("td", { class: "n" }, row.time, make("small", {}, row.age)), number(stars(row.rating)), item(row),
      ])));
    if (user.status !== "error") {
      const isMarked = user.reasoning.some(([, ranks]) => ranks.length);
      const marked = isMarked ? " Marked: words that name items of the list, with their ranks." : "";
      parts.push(make("h4", {}, "Reasoning"), reasoning(user), make("p", { class: "quiet" }, `${user.ending[0].toUpperCase()}${user.ending.slice(1)}.${marked}`));
      const hasPrice = user.list.some((row) => row.price !== null);
      const price = (row) => hasPrice ? [number(row.price === null ? "" : row.price.toFixed(2))] : [];
      parts.push(make("h4", {}, "Recommended"), table("Recommended", ["#", "Score", "Item", ...hasPrice ? ["Price"] : []],
        user.list.map((row) => [number(row.rank), number(row.score.toFixed(3)), item(row), ...price(row)])));
    }
    parts.push(make("h4", {}, "Bought later"));
    if (user.later.length) {
      parts.push(table("Bought later", ["When (UTC)", "Item", "Rank in the list"], user.later.map((row) => [
        make("td", { class: "n" }, row.time), item(row), number(row.rank === null ? "not in it" : row.rank),
      ])));
    } else {
      parts.push(make("p", { class: "quiet" }, "Nothing that the log knows of."));
    }
    return parts;
  };

  const search = at("search");
  const filter = at("filter");
  const list = at("users");
  let chosen = null;

  const choose = (user, { jump = false } = {}) => {
    chosen = user;
    at("user").replaceChildren(...page(user));
    for (const button of list.querySelectorAll("button")) {
      button.setAttribute("aria-current", String(button.dataset.user === user.user));
    }
    history.replaceState(null, "", `#user=${encodeURIComponent(user.user)}`);
    if (jump) at("user").focus({ preventScroll: false });
  };

  const refresh = () => {
    const wanted = search.value.trim().toLocaleLowerCase();
    const found = users.filter((user) =>
      (filter.value === "all" || outcome(user) === filter.value) && haystack(user).includes(wanted));
    // Those whose id begins so come first.
    const begins = (user) => user.user.toLocaleLowerCase().startsWith(wanted) ? 0 : 1;
    if (wanted) found.sort((one, other) => begins(one) - begins(other));
    list.replaceChildren(...found.slice(0, MOST_SHOWN).map((user) => {
      const button = make("button", { type: "button" }, user.user);
      button.dataset.user = user.user;
      button.setAttribute("aria-current", String(user === chosen));
      button.addEventListener("click", () => choose(user, { jump: true }));
      return make("li", {}, button);
    }));
    const many = found.length > MOST_SHOWN ? `, the first ${MOST_SHOWN} shown` : "";
    const none = wanted ? `No user of this page matches. Others: r2ec-cli show` : "No such user on this page";
    at("found").textContent = found.length ? `${found.length} ${found.length === 1 ? "user" : "users"}${many}` : none;
    return found;
  };

  const move = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const buttons = [...list.querySelectorAll("button")];
    const place = buttons.indexOf(document.activeElement) + step;
    event.preventDefault();
    if (place < 0) search.focus(); else if (buttons[place]) buttons[place].focus();
  };
  search.addEventListener("input", refresh);
  filter.addEventListener("change", refresh);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      const first = refresh()[0];
      if (first) choose(first);
    } else if (event.key === "ArrowDown") {
      move(event);
    }
  });
  list.addEventListener("keydown", move);

  const fromAddress = () => {
    const asked = new URLSearchParams(location.hash.slice(1)).get("user");
    return users.find((user) => user.user === asked);
  };
  window.addEventListener("hashchange", () => { const user = fromAddress(); if (user) choose(user); });

  if (users.length) {
    document.querySelector(".browser").hidden = false;
    refresh();
    const asked = fromAddress();
    const first = asked || users[0];
    chosen = first;
    at("user").replaceChildren(...page(first));
    refresh();
    if (asked) at("examples-of-users").scrollIntoView();
  }
})();
