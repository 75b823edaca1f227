def show(c, r): c.print(r.to_json()[:300])
