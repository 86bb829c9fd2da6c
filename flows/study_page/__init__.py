"""The page of a study: plain HTML, CSS and JavaScript, served by `flows.study_server` as they are.

`study.js` is the way of a person through the study, `server.js` what is asked of the server and
asked again until it answers, `pictures.js` shows pictures only when all of them can be shown, and
`zoom.js` magnifies two of them at once. Nothing is loaded from anywhere else, and no file names a
method.
"""
