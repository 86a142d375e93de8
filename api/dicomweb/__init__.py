"""DICOMweb (PS3.18) below ``/dicomweb``: search, retrieve and store."""

PREFIX = "/dicomweb"
